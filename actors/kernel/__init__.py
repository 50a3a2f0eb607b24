"""What an actor is: a mailbox, a doorbell, questions, a supervisor that makes it anew."""
