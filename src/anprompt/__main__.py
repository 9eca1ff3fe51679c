"""`python -m anprompt`, where the program itself is not on PATH."""

import sys

from anprompt.cli import main

sys.exit(main())
