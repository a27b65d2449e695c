"""What an implementation of a contract must do, as tests that anybody can subclass; one module a contract.

A suite sees the contract only. To test an implementation, subclass the suite in a test module and say how one is made.
"""
