"""An experiment in a folder: settings, stages, results, studies."""
