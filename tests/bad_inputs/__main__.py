"""Write the tables of docs/bad-input.md anew."""

from tests.bad_inputs.page import PAGE, rendered

PAGE.write_text(rendered(PAGE.read_text()))
