"""The Sender: takes queued jobs, within the quotas, to nodes with a free slot."""
