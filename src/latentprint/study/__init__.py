"""Studies: an audit over seeds and settings as data, run anywhere, compared with statistics over the seeds."""
