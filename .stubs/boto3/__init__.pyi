"""What of boto3 is used here; the package has no annotations."""

from boto3 import session as session
