"""Who may ask: certificates, credentials, and the files that they are in."""
