"""Who may what: tokens and the roles that they give, who needs none, and which role each route is for."""
