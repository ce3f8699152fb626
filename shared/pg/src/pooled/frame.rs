//! Messages of Postgres's protocol, cut from a stream and put together.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// No message is longer: Postgres's own limit.
const LENGTH_MAX: usize = 1 << 30;

const READ_SIZE: usize = 16 * 1024;

/// One message: its tag, and what follows its length.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// Reads messages from a stream.
pub(super) struct Frames<R> {
    from: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::new() }
    }

    /// The next message that has arrived whole.
    pub(super) fn ready(&mut self) -> io::Result<Option<Frame>> {
        let Some(header) = self.buffer.first_chunk::<5>() else { return Ok(None) };
        let [tag, a, b, c, d] = *header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if !(4..=LENGTH_MAX).contains(&length) {
            return Err(malformed("a message of an impossible length"));
        }
        if self.buffer.len() <= length {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(length + 1);
        message.advance(5);
        Ok(Some(Frame { tag, body: message.freeze() }))
    }

    /// Waits for more; false at the stream's end.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(READ_SIZE);
        Ok(self.from.read_buf(&mut self.buffer).await? > 0)
    }
}

/// Appends a message of these parts.
pub(super) fn put(out: &mut BytesMut, tag: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.put_u8(tag);
    // A message that was read is no longer than what fits.
    out.put_u32(u32::try_from(length + 4).unwrap_or(u32::MAX));
    for part in parts {
        out.put_slice(part);
    }
}

/// Takes a text that ends with a zero byte off the front.
pub(super) fn text(from: &mut Bytes) -> io::Result<Bytes> {
    let end = from.iter().position(|byte| *byte == 0);
    let end = end.ok_or_else(|| malformed("a text without an end"))?;
    let text = from.split_to(end);
    from.advance(1);
    Ok(text)
}

pub(super) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_cut_where_they_end_however_they_arrive() {
        let mut written = BytesMut::new();
        put(&mut written, b'Q', &[b"SELECT 1", b"\0"]);
        put(&mut written, b'S', &[]);
        for size in 1..=written.len() {
            let mut frames = Frames::new(&written[..size]);
            let mut tags = Vec::new();
            loop {
                while let Some(frame) = frames.ready().unwrap() {
                    tags.push(frame.tag);
                    let mut body = frame.body;
                    if frame.tag == b'Q' {
                        assert_eq!(text(&mut body).unwrap(), "SELECT 1");
                    }
                    assert!(body.is_empty());
                }
                if !frames.fill().await.unwrap() {
                    break;
                }
            }
            let whole: &[u8] = match size {
                0..14 => b"",
                14..19 => b"Q",
                _ => b"QS",
            };
            assert_eq!(tags, whole, "of {size} bytes");
        }
    }

    #[test]
    fn an_impossible_length_is_refused() {
        let mut frames = Frames::new(tokio::io::empty());
        frames.buffer.put_slice(b"Q\xff\xff\xff\xff");
        assert!(frames.ready().is_err());
    }
}
