"""What a run leaves for people: plots, pictures, reports and the table of claims; logs nothing."""
