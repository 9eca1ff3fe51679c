"""The commands of the command line, one module each; `anprompt.commands.main` finds them."""
