"""Write what follows from the code: ``python -m testkit.documentation``.

These are blocks of pages in docs/, and ``config/setting_names.py``: every process has to know the names of all
settings, to report misspelt ones, but web and relay must not import each other's classes.
"""

from testkit.documentation.blocks import filled, pages
from testkit.documentation.settings import NAMES, names_module

for page in pages():
    page.write_text(filled(page.read_text()))
NAMES.write_text(names_module())
