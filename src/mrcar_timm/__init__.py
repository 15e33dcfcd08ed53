from .version import __version__
from . import models
