"""How far painters read ahead of decoding."""

from bestpixel_gpu.compositing.painting import Room
from bestpixel_gpu.transfer.limits import BytesGate


def test_more_is_on_its_way_only_where_decoding_waits_for_the_network() -> None:
    room = Room(BytesGate(1), BytesGate(10), starved=25, pool_bytes=0)
    with room.decoding(8):  # nothing else was there
        assert room.undecoded.cap == 18
        with room.decoding(8), room.decoding(8):  # came while another was decoded
            assert room.undecoded.cap == 18
    with room.decoding(8):
        assert room.undecoded.cap == 25, "and no more than memory allows"
    assert not room.arrived
