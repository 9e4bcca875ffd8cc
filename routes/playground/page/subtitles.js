// Words with times -> captions in SubRip and WebVTT.

/** A caption has at most so many characters, and no more than one sentence. */
const LONGEST = 60;
/** Seconds of silence that no caption stands over. */
const SILENCE_S = 1;
/** Ends a sentence, with what may close it. */
const SENTENCE_END = /[.!?…]["'”’)\]]*$/;

function captions(words) {
  const found = [];
  let open = null;
  for (const { word, start, end } of words) {
    if (open && start - open.end >= SILENCE_S) open = null;
    if (open && open.text.length + 1 + word.length <= LONGEST) {
      open.text += ` ${word}`;
      open.end = end;
    } else {
      found.push((open = { text: word, start, end }));
    }
    if (SENTENCE_END.test(word)) open = null;
  }
  return found;
}

function clock(seconds, mark) {
  const milliseconds = Math.round(seconds * 1000);
  const part = (size, count, digits = 2) => String(Math.floor(milliseconds / size) % count).padStart(digits, "0");
  return `${part(3_600_000, 100)}:${part(60_000, 60)}:${part(1000, 60)}${mark}${part(1, 1000, 3)}`;
}

const cue = (caption, mark) => `${clock(caption.start, mark)} --> ${clock(caption.end, mark)}\n`;

export const srt = (words) =>
  captions(words)
    .map((caption, i) => `${i + 1}\n${cue(caption, ",")}${caption.text}\n`)
    .join("\n");

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

export const vtt = (words) =>
  `WEBVTT\n\n${captions(words)
    .map((caption) => `${cue(caption, ".")}${escaped(caption.text)}\n`)
    .join("\n")}`;
