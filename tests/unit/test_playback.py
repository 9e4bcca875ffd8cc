from echo.playback import Playback


def test_audio_that_comes_in_time_makes_no_gap() -> None:
    listener = Playback()
    assert not listener.has_run_dry(1000.0)
    assert listener.add(1.0, 10.0, None) == 0
    assert listener.add(2.0, 10.9, 10.0) == 0
    assert not listener.has_run_dry(12.9)
    assert listener.has_run_dry(13.1)


def test_audio_that_comes_late_makes_a_gap_as_long_as_the_silence() -> None:
    listener = Playback()
    listener.add(1.0, 10.0, None)
    assert listener.add(1.0, 11.5, 10.0) == 0.5
    assert not listener.has_run_dry(12.4)  # it plays on from where it stopped


def test_a_reader_who_comes_late_makes_no_gap() -> None:
    listener = Playback()
    listener.add(1.0, 10.0, None)
    assert listener.add(1.0, 60.25, 60.0) == 0.25  # its client read nothing for a while


def test_audio_that_does_not_follow_what_came_before_makes_no_gap() -> None:
    listener = Playback()
    listener.add(1.0, 10.0, None)
    assert listener.add(1.0, 15.0, None) == 0
