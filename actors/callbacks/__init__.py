"""The CallbackSender: tells whoever asked for it that a job has ended."""
