"""What a run leaves for people: MLflow tracking, plots, pictures, the report and the table of claims."""
