"""RA v5 under the name that the RA v5 plan imports it by. It lives in gpt2/attention/ra_ultimate_v5.py."""

from gpt2.attention.ra_ultimate_v5 import UltimateRAv5, convert_qkv_to_ra_v5

__all__ = ["UltimateRAv5", "convert_qkv_to_ra_v5"]
