// Samples: 16-bit PCM as the server sends it, floats as the browser plays them, WAV files.

/** Little-endian 16-bit samples as floats. */
export function floats(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const samples = new Float32Array(bytes.byteLength >> 1);
  for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
  return samples;
}

function sixteenBits(samples) {
  const data = new DataView(new ArrayBuffer(samples.length * 2));
  samples.forEach((sample, i) => {
    data.setInt16(2 * i, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true);
  });
  return data;
}

/** A WAV file, mono, of pieces of little-endian 16-bit samples. */
export function wav(pieces, rate) {
  const size = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, value) => [...value].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + size, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, size, true);
  return new Blob([header, ...pieces], { type: "audio/wav" });
}

/**
 * Any audio file that this browser can decode, as a WAV file: mono, 44.1 kHz, no longer than so many seconds, and how long
 * the given file is. Throws where it cannot.
 */
export async function decoded(file, longest) {
  const rate = 44100;
  const buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
  const mono = new Float32Array(Math.min(buffer.length, longest * rate));
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += samples[i] / buffer.numberOfChannels;
  }
  return { file: wav([sixteenBits(mono)], rate), seconds: buffer.duration };
}
