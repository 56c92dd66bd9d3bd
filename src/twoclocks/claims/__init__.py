"""This package knows published claims, how each is measured again, and the page that says what was found."""
