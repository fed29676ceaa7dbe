"""What the audits of all channels share; `latentprint.audit` is the name of the function that starts one."""
