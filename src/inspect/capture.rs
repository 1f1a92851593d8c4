//! pcap and pcapng files, block by block.

use std::fs::File;

use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, PcapNGOption, create_reader};

use super::flow::Flow;
use super::packet::Decoder;
use super::track::Tracker;
use super::unread::Unread;
use super::{InspectFault, InspectFaults, Kinds};

/// Bytes read at a time, and the largest block that is read.
const BUFFER: usize = 1024 * 1024;
const BLOCK_MAX: usize = 32 * 1024 * 1024;

/// Type of the Packet Block of pcapng: obsolete, and still to be read
/// (draft-ietf-opsawg-pcapng, appendix A).
const PACKET_BLOCK: u32 = 2;

/// Options of pcapng: the length of the frame check sequence of an interface, the flags of a packet.
const IF_FCSLEN: u16 = 13;
const FLAGS: u16 = 2;

/// Gives out the flows of a capture, also where it is broken.
pub(super) fn inspect(
    name: &str,
    file: File,
    each: &mut dyn FnMut(Flow),
) -> Result<(), InspectFaults> {
    let mut tracker = Tracker::new(name);
    let mut decoder = Decoder::default();
    let end = read(name, file, &mut |link, frame| {
        decoder.read(link, frame, &mut |packet| tracker.add(packet, each));
    });
    let lacking = tracker.finish(each);
    let mut unread = decoder.finish();
    unread.add(Unread::FirstBytes, lacking);
    let kinds = unread.into_kinds();
    let not_read = (!kinds.is_empty())
        .then(|| InspectFault::NotRead { file: name.to_owned(), kinds: Kinds(kinds) });
    let faults: Vec<_> = end.err().into_iter().chain(not_read).collect();
    if faults.is_empty() { Ok(()) } else { Err(InspectFaults(faults)) }
}

/// Where packets were captured.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link: Linktype,
    /// Bytes of the frame check sequence behind each frame.
    check: usize,
    /// The most bytes of a frame that are captured; 0: all.
    snap: u32,
}

/// A captured frame.
struct Frame<'a> {
    interface: usize,
    bytes: &'a [u8],
    /// Bytes that the frame had.
    len: u32,
    /// Bytes of its check sequence, where the packet itself says it.
    check: Option<usize>,
}

impl<'a> Frame<'a> {
    /// What was captured, without the check sequence.
    fn content(&self, interface: &Interface) -> &'a [u8] {
        let check = self.check.unwrap_or(interface.check);
        let len = usize::try_from(self.len).unwrap_or(usize::MAX).max(self.bytes.len());
        let len = len.saturating_sub(check).min(self.bytes.len());
        self.bytes.get(..len).unwrap_or_default()
    }
}

/// What a file says about its packets so far.
#[derive(Default)]
struct Section {
    /// One in a pcap file, all those of a pcapng section.
    interfaces: Vec<Interface>,
    big_endian: bool,
}

impl Section {
    /// Takes in a block; gives the frame that it holds. `None`: a packet that ends inside its header.
    fn take<'a>(&mut self, block: &'a PcapBlockOwned<'_>) -> Option<Option<Frame<'a>>> {
        Some(match block {
            PcapBlockOwned::LegacyHeader(header) => {
                // The upper six bits: how long the check sequence is, in units of two bytes, and
                // whether that is known.
                let network = header.network.0.cast_unsigned();
                let known = network & 0x0400_0000 != 0;
                let check = if known { 2 * (network >> 28) as usize } else { 0 };
                let link = Linktype((network & 0x03ff_ffff).cast_signed());
                self.interfaces = vec![Interface { link, check, snap: header.snaplen }];
                None
            }
            PcapBlockOwned::Legacy(block) => {
                Some(Frame { interface: 0, bytes: block.data, len: block.origlen, check: None })
            }
            PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                *self = Self { interfaces: Vec::new(), big_endian: header.big_endian() };
                None
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                let check = option(&interface.options, IF_FCSLEN).and_then(|value| value.first());
                // In bits; some writers say it in bytes.
                let check = match check.copied().map_or(0, usize::from) {
                    bits @ 8.. => bits / 8,
                    bytes => bytes,
                };
                let (link, snap) = (interface.linktype, interface.snaplen);
                self.interfaces.push(Interface { link, check, snap });
                None
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                let captured = usize::try_from(block.caplen).ok()?;
                let captured = captured.min(block.data.len());
                let flags = option(&block.options, FLAGS).and_then(|flags| flags.first_chunk());
                Some(Frame {
                    interface: usize::try_from(block.if_id).ok()?,
                    bytes: block.data.get(..captured)?,
                    len: block.origlen,
                    check: flags.and_then(|flags| self.check_of(*flags)),
                })
            }
            PcapBlockOwned::NG(Block::SimplePacket(block)) => {
                // How much of it was captured is said by the interface alone, the first.
                let snap = self.interfaces.first().map_or(0, |interface| interface.snap);
                let captured = if snap == 0 { block.origlen } else { block.origlen.min(snap) };
                let captured = usize::try_from(captured).ok()?.min(block.data.len());
                let bytes = block.data.get(..captured)?;
                Some(Frame { interface: 0, bytes, len: block.origlen, check: None })
            }
            PcapBlockOwned::NG(Block::Unknown(block)) => {
                let swapped = block.block_type.swap_bytes();
                let kind = if self.big_endian { swapped } else { block.block_type };
                if kind != PACKET_BLOCK {
                    return Some(None);
                }
                Some(self.packet_block(block.data)?)
            }
            PcapBlockOwned::NG(_) => None,
        })
    }

    /// Interface (2 bytes), drops (2), time (8), captured length, length; the frame, padded; options.
    fn packet_block<'a>(&self, body: &'a [u8]) -> Option<Frame<'a>> {
        let (header, data) = body.split_first_chunk::<20>()?;
        let interface = [header[0], header[1]];
        let interface = if self.big_endian {
            u16::from_be_bytes(interface)
        } else {
            u16::from_le_bytes(interface)
        };
        let [captured, len] = [12, 16].map(|at| {
            let number = header.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
            number.map(|&bytes| self.number(bytes))
        });
        let captured = usize::try_from(captured?).ok()?;
        let bytes = data.get(..captured)?;
        let options = data.get(captured.next_multiple_of(4)..).unwrap_or_default();
        let check = self.flags(options).and_then(|flags| self.check_of(flags));
        Some(Frame { interface: interface.into(), bytes, len: len?, check })
    }

    /// The flags among the options of a packet: each has a type, a length, and a value that is
    /// padded.
    fn flags(&self, mut options: &[u8]) -> Option<[u8; 4]> {
        while let Some(([a, b, c, d], rest)) = options.split_first_chunk() {
            let [kind, len] = [[*a, *b], [*c, *d]].map(|bytes| {
                if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
            });
            if kind == FLAGS {
                return rest.first_chunk().copied();
            }
            if kind == 0 {
                return None;
            }
            options = rest.get(usize::from(len).next_multiple_of(4)..)?;
        }
        None
    }

    fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// Bits 5 to 8 of the flags: bytes of the check sequence; 0: not known.
    fn check_of(&self, flags: [u8; 4]) -> Option<usize> {
        let check = self.number(flags) >> 5 & 0xf;
        (check != 0).then_some(check as usize)
    }
}

fn option<'a>(options: &'a [PcapNGOption<'_>], code: u16) -> Option<&'a [u8]> {
    options.iter().find(|option| option.code.0 == code)?.as_bytes().ok()
}

fn read(name: &str, file: File, each: &mut dyn FnMut(Linktype, &[u8])) -> Result<(), InspectFault> {
    let broken = |offset: usize, what| InspectFault::Broken {
        file: name.to_owned(),
        offset: offset as u64,
        what,
    };
    let mut reader = match create_reader(BUFFER, file) {
        Ok(reader) => reader,
        Err(PcapError::ReadError) => {
            let source = std::io::Error::other("the system could not read it");
            return Err(InspectFault::Read { file: name.to_owned(), source });
        }
        Err(_) => return Err(InspectFault::NotACapture { file: name.to_owned() }),
    };
    let mut section = Section::default();
    let mut capacity = BUFFER;
    loop {
        let offset = reader.consumed();
        let more = match reader.next() {
            Ok((len, block)) => {
                let Some(frame) = section.take(&block) else {
                    return Err(broken(offset, "a packet is longer than its block"));
                };
                if let Some(frame) = frame {
                    let Some(interface) = section.interfaces.get(frame.interface) else {
                        return Err(broken(
                            offset,
                            "a packet of an interface that is not described",
                        ));
                    };
                    each(interface.link, frame.content(interface));
                }
                reader.consume(len);
                continue;
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => true,
            Err(PcapError::UnexpectedEof) => false,
            Err(PcapError::BufferTooSmall) => {
                return Err(broken(offset, "a block is larger than 32 MiB"));
            }
            Err(PcapError::ReadError) => {
                return Err(broken(offset, "the file could not be read on"));
            }
            Err(
                PcapError::HeaderNotRecognized
                | PcapError::NomError(..)
                | PcapError::OwnedNomError(..),
            ) => return Err(broken(offset, "no block of a capture is here")),
        };
        if !more || reader.reader_exhausted() {
            return Err(broken(offset, "the file ends inside a block"));
        }
        // A block larger than the buffer.
        if reader.data().len() >= capacity {
            capacity *= 2;
            if capacity > BLOCK_MAX || !reader.grow(capacity) {
                return Err(broken(offset, "a block is larger than 32 MiB"));
            }
        }
        if reader.refill().is_err() {
            return Err(broken(offset, "the file could not be read on"));
        }
    }
}
