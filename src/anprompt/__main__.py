"""`python -m anprompt`, where the program itself is not on PATH."""

import sys

from anprompt.commands.main import main

sys.exit(main())
