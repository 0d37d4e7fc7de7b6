"""Finding frames in videos: by number, by time, with odd containers, and what is no video."""

import contextlib
import itertools

import av
import numpy as np
import pytest

from datasets import video
from errors import DataError
from tests.datasets import videos


def all_frames(path, info):
  """Frame numbers drawn into all frames, as read in one go."""
  return [videos.number_in(f) for f in video.read_frames(path, info, range(info.num_frames))]


def shown(path, times):
  """The numbers drawn into the frames displayed at some times."""
  with video.open_video(path) as source:
    frames = source.frames_at(times, lambda picture: picture.rgb(picture.height, picture.width))
    return [videos.number_in(frame) for _, frame in frames]


def test_probe_says_what_the_video_holds(tmp_path):
  path = videos.write_video(tmp_path / 'a.mp4', 50)
  info = video.probe(path)
  assert (info.height, info.width, info.num_frames) == (48, 64, 50)
  assert info.frame_rate == pytest.approx(25, abs=1e-9)
  np.testing.assert_allclose(info.times, np.arange(50) / 25, atol=1e-9)
  assert info.keyframes.tolist() == [0, 12, 24, 36, 48]
  assert info.seekable


CONTAINERS = {
  'b_frames.mp4': {},
  'open_gop.mp4': {'options': {'g': '12', 'bf': '3', 'x264-params': 'open-gop=1:scenecut=0'}},
  'fragmented.mp4': {'container_options': {'movflags': 'frag_keyframe+empty_moov'}},
  'offset.mp4': {'times': [5 + k / 25 for k in range(50)]},
  'offset.mkv': {'times': [5 + k / 25 for k in range(50)]},
  'offset.ts': {'times': [5 + k / 25 for k in range(50)]},
  'sound.mp4': {'audio': True},
  'vp9.webm': {'codec': 'libvpx-vp9', 'options': {'g': '12', 'cpu-used': '8', 'crf': '20'}},
  'vp8.webm': {'codec': 'libvpx', 'options': {'g': '12', 'cpu-used': '8', 'auto-alt-ref': '1'}},
  'mpeg4.avi': {'codec': 'mpeg4', 'options': {'bf': '2', 'g': '12'}},
  'h264.avi': {},
  'raw.h264': {},
}


@pytest.mark.parametrize('name', CONTAINERS)
def test_a_frame_found_by_seeking_is_the_frame_of_a_decoder_that_starts_at_the_beginning(
  tmp_path, name
):
  path = videos.write_video(tmp_path / name, 50, **CONTAINERS[name])
  info = video.probe(path)
  assert all_frames(path, info) == list(range(50))
  in_order = list(video.read_frames(path, info, range(50)))
  for chosen in ([0], [49], [12], [11, 12, 13], [3, 30, 31, 47], [25], [1, 49]):
    found = list(video.read_frames(path, info, chosen))
    for number, frame in zip(chosen, found, strict=True):
      np.testing.assert_array_equal(frame, in_order[number])


@pytest.mark.parametrize('name', CONTAINERS)
def test_times_count_from_the_containers_start(tmp_path, name):
  path = videos.write_video(tmp_path / name, 50, **CONTAINERS[name])
  info = video.probe(path)
  np.testing.assert_allclose(info.times, np.arange(50) / 25, atol=1e-3)
  middles = (np.arange(50) + 0.5) / 25
  assert shown(path, middles) == list(range(50))
  assert shown(path, middles[30:]) == list(range(30, 50))
  assert [shown(path, [time]) for time in (2.5, 100.0, 1e6)] == [[], [], []]


def test_frames_that_an_edit_list_cuts_off_are_not_there(tmp_path):
  whole = videos.write_video(tmp_path / 'a.mp4', 50)
  path = tmp_path / 'cut.mp4'
  with av.open(str(whole)) as source, av.open(str(path), 'w') as target:
    stream = target.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(video=0):
      if packet.size:
        unit = packet.time_base
        packet.pts, packet.dts = (round(t - 0.2 / unit) for t in (packet.pts, packet.dts))
        packet.stream = stream
        target.mux(packet)
  info = video.probe(path)
  np.testing.assert_allclose(info.times, np.arange(45) / 25, atol=1e-9)
  assert all_frames(path, info) == list(range(5, 50))
  assert shown(path, [0.0, 0.05, 1.02]) == [5, 6, 30]


def test_variable_frame_rate_keeps_real_time(tmp_path):
  times = np.cumsum([0.0, *([0.04, 0.1, 0.02] * 13)])
  path = videos.write_video(tmp_path / 'vfr.mp4', 40, times=times)
  info = video.probe(path)
  np.testing.assert_allclose(info.times, times, atol=1e-4)
  assert info.frame_rate == pytest.approx(39 / times[-1], rel=1e-4)
  assert shown(path, [0.0, 0.05, 0.13, 0.145, 0.17, 1.0]) == [0, 1, 1, 2, 3, 19]
  assert [
    videos.number_in(f) for f in video.read_frames(path, info, [0, 7, 8, 39])
  ] == [0, 7, 8, 39]  # fmt: skip


def test_a_stream_that_starts_after_the_sound_shows_its_first_frame_before(tmp_path):
  path = tmp_path / 'late.mkv'
  late = [0.5 + k / 25 for k in range(10)]
  videos.write_video(path, 10, times=late, audio=True)
  info = video.probe(path)
  np.testing.assert_allclose(info.times, late, atol=0.025)  # AAC's priming shifts the zero.
  assert shown(path, [0.0, 0.2, 0.7]) == [0, 0, 4]


def test_frames_at_ends_where_the_video_ends(tmp_path):
  path = videos.write_video(tmp_path / 'a.mp4', 10)
  assert shown(path, (k / 50 for k in itertools.count())) == [k // 2 for k in range(20)]
  assert shown(path, [0.399, 0.41]) == [9]
  assert shown(path, [7.0]) == []
  assert shown(path, []) == []


def test_a_frame_displayed_at_several_times_is_rendered_once(tmp_path):
  path = videos.write_video(tmp_path / 'a.mp4', 4)
  rendered = []
  with video.open_video(path) as source:
    found = [n for _, n in source.frames_at(np.arange(8) / 50, lambda p: rendered.append(p) or 7)]
  assert (len(rendered), found) == (4, [7] * 8)


@pytest.mark.parametrize('chosen', [[-1], [50], [3, 3], [4, 2]])
def test_frame_numbers_are_checked(tmp_path, chosen):
  path = videos.write_video(tmp_path / 'a.mp4', 50)
  with pytest.raises(DataError, match=r'ascending, distinct and in \[0, 49\]'):
    list(video.read_frames(path, video.probe(path), chosen))


def test_no_frames_may_be_asked_for(tmp_path):
  path = videos.write_video(tmp_path / 'a.mp4', 5)
  assert list(video.read_frames(path, video.probe(path), [])) == []


@pytest.mark.parametrize('name', ['ein video mit Ümlaut 視頻.mp4', 'http:colon: 50%.mp4', '-v.mp4'])
def test_any_file_name_works(tmp_path, name):
  path = videos.write_video(tmp_path / 'a.mp4', 5).rename(tmp_path / name)
  assert all_frames(path, video.probe(path)) == list(range(5))


def read_all(path):
  """Everything one can do with a video."""
  info = video.probe(path)
  list(video.read_frames(path, info, range(info.num_frames)))
  return shown(path, [0.0, 1.0, 1.9])


@pytest.mark.parametrize('read', [video.probe, read_all, lambda path: shown(path, [0.0, 1.9])])
def test_what_is_no_video_is_named(tmp_path, read):
  with pytest.raises(DataError, match=r'missing\.mp4: no such video file'):
    read(tmp_path / 'missing.mp4')
  with pytest.raises(DataError, match='no such video file'):
    read(tmp_path)
  (tmp_path / 'zero.mp4').touch()
  with pytest.raises(DataError, match=r'zero\.mp4: the file is empty'):
    read(tmp_path / 'zero.mp4')
  (tmp_path / 'text.mp4').write_text('some notes\n' * 100)
  with pytest.raises(DataError, match=r'text\.mp4: cannot be read as a video'):
    read(tmp_path / 'text.mp4')
  (tmp_path / 'notes.txt').write_text('some notes\n' * 100)
  with pytest.raises(DataError, match=r'notes\.txt: is a text file'):
    read(tmp_path / 'notes.txt')
  videos.write_audio(tmp_path / 'sound.mp4')
  with pytest.raises(DataError, match=r'sound\.mp4: has no video stream, only audio'):
    read(tmp_path / 'sound.mp4')


@pytest.mark.parametrize('front', [False, True])
def test_a_truncated_file_is_named(tmp_path, front):
  options = {'movflags': 'faststart'} if front else {}
  whole = videos.write_video(tmp_path / 'a.mp4', 50, container_options=options).read_bytes()
  path = tmp_path / 'cut.mp4'
  path.write_bytes(whole[: len(whole) * 7 // 10])
  for read in (video.probe, lambda path: shown(path, [0.0, 1.9])):
    with pytest.raises(DataError, match=r'cut\.mp4: .*truncated'):
      read(path)
  if front:
    assert shown(path, [0.0, 0.1]) == [0, 2]  # What lies before the cut can be used.


def test_cover_art_is_no_video(tmp_path):
  path = tmp_path / 'song.mp4'
  with av.open(str(path), 'w') as container:
    sound = container.add_stream('aac', rate=8000)
    cover = container.add_stream('mjpeg', rate=1)
    cover.width, cover.height, cover.pix_fmt = 64, 48, 'yuvj420p'
    cover.disposition = av.stream.Disposition.attached_pic
    container.mux(cover.encode(av.VideoFrame.from_ndarray(videos.picture(1), 'rgb24')))
    container.mux(cover.encode(None))
    videos.write_silence(container, sound, 1)
  with pytest.raises(DataError, match='has no video stream'):
    video.probe(path)


def test_an_unknown_codec_is_named(tmp_path):
  path = videos.write_video(tmp_path / 'a.mp4', 5)
  path.write_bytes(path.read_bytes().replace(b'avc1', b'zzz1'))
  with pytest.raises(DataError, match='no decoder for its codec'):
    video.probe(path)


def test_a_playlist_does_not_open_other_files(tmp_path):
  videos.write_video(tmp_path / 'a.ts', 5)
  lines = ['#EXTM3U', '#EXT-X-TARGETDURATION:1', '#EXTINF:1,', 'http://localhost:9/a.ts']
  (tmp_path / 'list.mp4').write_text('\n'.join(lines) + '\n#EXT-X-ENDLIST\n')
  with pytest.raises(DataError, match=r'list\.mp4'):
    video.probe(tmp_path / 'list.mp4')


def test_garbage_in_the_middle_is_a_named_error_or_a_picture(tmp_path):
  whole = videos.write_video(tmp_path / 'a.mp4', 50).read_bytes()
  rng = np.random.default_rng(0)
  path = tmp_path / 'b.mp4'
  for _ in range(20):
    data = bytearray(whole)
    for at in rng.integers(0, len(data), 30):
      data[at] ^= 255
    path.write_bytes(data)
    with contextlib.suppress(DataError):
      read_all(path)
