"""Ops on CPU: the C++ extension behind the protocol. Nothing else imports headrace._cpu."""
