"""`python -m mooncake`: the command line for people."""

import sys

from .cli_main import main

sys.exit(main())
