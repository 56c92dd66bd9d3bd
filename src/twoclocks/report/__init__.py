"""How a diagnosis is shown: figures drawn from records, and the one-file page."""
