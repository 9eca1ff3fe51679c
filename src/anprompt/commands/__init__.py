"""The commands of the command line, one module each; `anprompt.cli` finds them."""
