"""The annotator: clicks over HTTP become masks, and masks a data set."""
