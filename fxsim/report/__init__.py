"""Tables, summaries and plots of results."""
