"""The methods, one subpackage each: ``anchor_heads.projects.<method>``.

Their code lies in ``projects/<method>`` of the checkout; a wheel carries it here.
"""

from anchor_heads import _layout

__path__ = [str(_layout.folder("projects"))]
