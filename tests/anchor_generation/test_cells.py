import torch

from anchor_heads.anchor_generation import cells_in_images


def test_cells_of_each_image_padded_by_itself():
    """Images of 40x60 and 64x33 pixels, each padded to 64x64, in a batch of 64x96."""
    sizes = [(8, 12), (2, 3)]
    cells = cells_in_images([(40, 60), (64, 33)], sizes, [8, 32], torch.device("cpu"))
    assert cells.shape == (2, 8 * 12 + 2 * 3)
    fine, coarse = cells[0, :96].view(8, 12), cells[0, 96:].view(2, 3)
    assert fine[:, :8].all() and not fine[:, 8:].any()
    assert coarse.tolist() == [[True, True, False]] * 2
    assert torch.equal(cells[0], cells[1])
