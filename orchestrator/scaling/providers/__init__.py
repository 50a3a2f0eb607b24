"""Where machines come from: processes here, commands, EC2."""
