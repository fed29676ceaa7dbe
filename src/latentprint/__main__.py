"""``python -m latentprint``, and what ``accelerate launch -m latentprint`` starts."""

import sys

from latentprint.cli import main

sys.exit(main())
