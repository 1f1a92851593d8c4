//! Reads DNS queries, and writes the answers to them (RFC 1035, RFC 6891). Pure.

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::svcb::{SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, SVCB};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::egress::{Family, Question, UDP_MAX, localhost};
use crate::identify::HostName;

/// The least that every client takes over UDP (RFC 1035 §4.2.1).
const UDP_LEAST: u16 = 512;

/// The option of an extended error, and two of its codes (RFC 8914 §4.16, §4.19).
const EXTENDED_ERROR: u16 = 15;
/// Blocked: the name or address is refused by policy.
pub(super) const BLOCKED: u16 = 15;
/// Prohibited: this client may not ask that.
pub(super) const PROHIBITED: u16 = 18;

/// Bytes of the words beside an extended error.
const WORDS_MAX: usize = 200;

/// One question, and how its client wants the answer.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    id: u16,
    query: Query,
    /// The name as rules know names; `None` for the root.
    pub(super) name: Option<HostName>,
    /// Whether that is the name itself.
    is_exact: bool,
    recursion: bool,
    checking_disabled: bool,
    authentic: bool,
    /// Size that the client takes over UDP, and whether it wants DNSSEC records.
    edns: Option<(u16, bool)>,
}

/// A datagram that asks nothing that can be forwarded.
#[derive(Debug)]
pub(super) enum Unread {
    /// No query, or one of several questions: not answered.
    Malformed,
    /// An operation or class that is not forwarded, with the answer that says so.
    Unsupported(Box<Message>),
    /// The name cannot be judged, with the answer that says so.
    BadName(Box<Message>),
}

impl Asking {
    /// Reads a query.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unread> {
        let message = Message::from_vec(bytes).map_err(|_| Unread::Malformed)?;
        // An answer is never answered: two gateways would talk for ever.
        if message.metadata.message_type != MessageType::Query {
            return Err(Unread::Malformed);
        }
        let [query] = message.queries.as_slice() else { return Err(Unread::Malformed) };
        let mut asking = Self {
            id: message.metadata.id,
            query: query.clone(),
            name: None,
            is_exact: false,
            recursion: message.metadata.recursion_desired,
            checking_disabled: message.metadata.checking_disabled,
            authentic: message.metadata.authentic_data,
            edns: message.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
        };
        let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
        let foreign = query.query_class() != DNSClass::IN;
        if message.metadata.op_code != OpCode::Query || transfer || foreign {
            let answer = asking.reply(ResponseCode::NotImp);
            return Err(Unread::Unsupported(Box::new(answer)));
        }
        if !query.name().is_root() {
            match judged_as(query.name()) {
                Some((name, is_exact)) => {
                    asking.name = Some(name);
                    asking.is_exact = is_exact;
                }
                None => return Err(Unread::BadName(Box::new(asking.reply(ResponseCode::FormErr)))),
            }
        }
        Ok(asking)
    }

    /// The name, where it is one that a host may have.
    pub(super) fn exact_name(&self) -> Option<&HostName> {
        self.name.as_ref().filter(|_| self.is_exact)
    }

    /// What is asked for.
    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// The same question, for a name server: nothing else that the client wrote.
    pub(super) fn onward(&self) -> Question {
        Question {
            query: self.query.clone(),
            recursion: self.recursion,
            checking_disabled: self.checking_disabled,
            authentic: self.authentic,
            dnssec: self.edns.is_some_and(|(_, dnssec)| dnssec),
        }
    }

    /// The answer to a question about a name of the client's own host (RFC 6761 §6.3), where it is one.
    pub(super) fn loopback(&self) -> Option<Message> {
        let name = self.exact_name()?;
        let of = |family| localhost(name, family);
        let (four, six) = (of(Family::V4)?, of(Family::V6)?);
        let mut message = self.reply(ResponseCode::NoError);
        let data = match (self.kind(), four, six) {
            (RecordType::A, IpAddr::V4(four), _) => Some(RData::A(A(four))),
            (RecordType::AAAA, _, IpAddr::V6(six)) => Some(RData::AAAA(AAAA(six))),
            _ => None,
        };
        let record = data.map(|data| Record::from_rdata(self.query.name().clone(), 600, data));
        message.add_answers(record);
        Some(message)
    }

    /// An answer without records.
    pub(super) fn reply(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if let Some((_, dnssec)) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX);
            edns.set_dnssec_ok(dnssec);
            message.set_edns(edns);
        }
        message
    }

    /// The same with an extended error, for clients that speak EDNS (RFC 8914 §2).
    pub(super) fn explained(&self, code: ResponseCode, error: u16, words: &str) -> Message {
        let mut message = self.reply(code);
        self.explain(&mut message, error, words);
        message
    }

    /// Adds an extended error.
    pub(super) fn explain(&self, message: &mut Message, error: u16, words: &str) {
        if self.edns.is_some() {
            let mut option = error.to_be_bytes().to_vec();
            option.extend(words.bytes().take(WORDS_MAX));
            let edns = message.edns.get_or_insert_with(Edns::new);
            edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, option));
        }
    }

    /// A name server's answer as one to this client.
    pub(super) fn passed_on(&self, mut message: Message) -> Message {
        message.metadata.id = self.id;
        message.metadata.recursion_desired = self.recursion;
        message.metadata.truncation = false;
        message.queries.clear();
        message.add_query(self.query.clone());
        if self.edns.is_none() {
            message.edns = None;
        }
        if !self.authentic && !self.edns.is_some_and(|(_, dnssec)| dnssec) {
            message.metadata.authentic_data = false;
        }
        message
    }

    /// The bytes of an answer: over UDP no more than the client takes, cut with TC set.
    pub(super) fn encoded(&self, message: &Message, over_udp: bool) -> Result<Vec<u8>, ProtoError> {
        let size = self.edns.map_or(UDP_LEAST, |(size, _)| size.clamp(UDP_LEAST, UDP_MAX));
        let limit = if over_udp { size } else { u16::MAX };
        let bytes = message.to_vec()?;
        if bytes.len() <= usize::from(limit) { Ok(bytes) } else { message.truncate().to_vec() }
    }
}

/// A name as rules know names, and whether it is that name. One that no host could have (`*`, a space,
/// a byte over 127) is judged with an `x` for each such byte: rules about everything below a name
/// hold for it all the same.
fn judged_as(name: &Name) -> Option<(HostName, bool)> {
    let mut text = Vec::new();
    let mut is_exact = true;
    for label in name {
        for &byte in label {
            let plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            is_exact &= plain;
            text.push(if plain { byte } else { b'x' });
        }
        text.push(b'.');
    }
    Some((HostName::parse(&text).ok()?, is_exact))
}

/// What was taken out of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sifted {
    /// Addresses that the policy refuses.
    pub(super) refused: Vec<IpAddr>,
    /// Addresses that are left, of the answer itself, and the shortest TTL in seconds of theirs and
    /// of the aliases that lead to them.
    pub(super) left: Vec<IpAddr>,
    pub(super) ttl: u32,
}

/// Takes the addresses that are not to be told out of every section, those that stand as hints in
/// SVCB and HTTPS records included (RFC 9460 §7.3), and the keys of ECH where that is wanted.
pub(super) fn sift(
    message: &mut Message,
    strip_ech: bool,
    keep: impl Fn(IpAddr) -> bool,
) -> Sifted {
    let mut sifted = Sifted { ttl: u32::MAX, ..Sifted::default() };
    let mut each = |record: Record, is_answer: bool| -> Option<Record> {
        let record = hinted(record, strip_ech, &keep);
        let Some(address) = address_of(&record.data) else {
            if is_answer && record.record_type() == RecordType::CNAME {
                // The addresses are the name's for no longer than the alias is.
                sifted.ttl = sifted.ttl.min(record.ttl);
            }
            return Some(record);
        };
        if !keep(address) {
            sifted.refused.push(address);
            return None;
        }
        if is_answer {
            sifted.left.push(address);
            sifted.ttl = sifted.ttl.min(record.ttl);
        }
        Some(record)
    };
    let answers = std::mem::take(&mut message.answers);
    let answers: Vec<_> = answers.into_iter().filter_map(|record| each(record, true)).collect();
    let others = std::mem::take(&mut message.additionals);
    let others: Vec<_> = others.into_iter().filter_map(|record| each(record, false)).collect();
    message.add_answers(answers);
    message.add_additionals(others);
    sifted
}

/// A record whose hints and keys were sifted.
fn hinted(mut record: Record, strip_ech: bool, keep: &impl Fn(IpAddr) -> bool) -> Record {
    let sifted = if let RData::HTTPS(HTTPS(service)) = &record.data {
        RData::HTTPS(HTTPS(sift_service(service, strip_ech, keep)))
    } else if let RData::SVCB(service) = &record.data {
        RData::SVCB(sift_service(service, strip_ech, keep))
    } else {
        return record;
    };
    record.data = sifted;
    record
}

/// The address that a record holds.
fn address_of(data: &RData) -> Option<IpAddr> {
    if let RData::A(v4) = data {
        return Some(v4.0.into());
    }
    if let RData::AAAA(v6) = data { Some(v6.0.into()) } else { None }
}

fn sift_service(service: &SVCB, strip_ech: bool, keep: &impl Fn(IpAddr) -> bool) -> SVCB {
    let mut left: Vec<(SvcParamKey, SvcParamValue)> = Vec::new();
    for (key, value) in &service.svc_params {
        let mut value = value.clone();
        let stays = match &mut value {
            SvcParamValue::EchConfigList(_) => !strip_ech,
            SvcParamValue::Ipv4Hint(hint) => {
                hint.0.retain(|v4| keep(v4.0.into()));
                !hint.0.is_empty()
            }
            SvcParamValue::Ipv6Hint(hint) => {
                hint.0.retain(|v6| keep(v6.0.into()));
                !hint.0.is_empty()
            }
            SvcParamValue::Mandatory(_)
            | SvcParamValue::Alpn(_)
            | SvcParamValue::NoDefaultAlpn
            | SvcParamValue::Port(_)
            | SvcParamValue::Unknown(_) => true,
        };
        if stays {
            left.push((*key, value));
        }
    }
    // A key that must be understood has to be there (RFC 9460 §8).
    let there: Vec<SvcParamKey> = left.iter().map(|(key, _)| *key).collect();
    left.retain_mut(|(_, value)| {
        let SvcParamValue::Mandatory(keys) = value else { return true };
        keys.0.retain(|key| there.contains(key));
        !keys.0.is_empty()
    });
    SVCB::new(service.svc_priority, service.target_name.clone(), left)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, Mandatory};

    use super::*;

    fn query(name: &str, kind: RecordType) -> Message {
        question(Name::from_str(name).unwrap(), kind)
    }

    fn question(name: Name, kind: RecordType) -> Message {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, kind));
        message
    }

    fn asking(message: &Message) -> Asking {
        Asking::read(&message.to_vec().unwrap()).unwrap()
    }

    fn with_edns(mut message: Message, size: u16) -> Message {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
        message
    }

    #[test]
    fn what_is_no_single_query_is_not_answered() {
        let good = query("pacs.example.", RecordType::A).to_vec().unwrap();
        for end in 0..good.len() {
            assert!(matches!(Asking::read(&good[..end]), Err(Unread::Malformed)), "{end}");
        }
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert!(matches!(Asking::read(&answer), Err(Unread::Malformed)), "an answer");
        let mut two = query("a.example.", RecordType::A);
        two.add_query(Query::query(Name::from_str("b.example.").unwrap(), RecordType::A));
        assert!(matches!(Asking::read(&two.to_vec().unwrap()), Err(Unread::Malformed)));
    }

    #[test]
    fn transfers_and_other_operations_are_not_forwarded() {
        let mut notify = query("a.example.", RecordType::SOA);
        notify.metadata.op_code = OpCode::Notify;
        for message in [query("a.example.", RecordType::AXFR), notify] {
            let Err(Unread::Unsupported(answer)) = Asking::read(&message.to_vec().unwrap()) else {
                panic!("{message}");
            };
            assert_eq!(
                (answer.metadata.id, answer.metadata.response_code),
                (77, ResponseCode::NotImp)
            );
        }
    }

    #[test]
    fn a_name_is_judged_in_the_one_form_that_rules_know() {
        let name = |text: &str| asking(&query(text, RecordType::TXT)).name;
        let is = |text: &str| HostName::parse(text.as_bytes()).ok();
        assert_eq!(name("PACS.Example."), is("pacs.example"));
        assert_eq!(name("_dmarc.pacs.example."), is("_dmarc.pacs.example"));
        let odd = [&b"a\0b.c"[..], b"foreign", b"example"];
        let odd = asking(&question(Name::from_labels(odd).unwrap(), RecordType::TXT));
        assert_eq!(odd.name, is("axbxc.foreign.example"));
        assert!(odd.exact_name().is_none());
        assert_eq!(name("*.foreign.example."), is("x.foreign.example"));
        assert_eq!(name("."), None);
        let number = query("127.1.", RecordType::A).to_vec().unwrap();
        assert!(matches!(Asking::read(&number), Err(Unread::BadName(_))));
    }

    #[test]
    fn nothing_but_the_question_goes_on() {
        let mut message = with_edns(query("pacs.example.", RecordType::A), 4096);
        let edns = message.edns.as_mut().unwrap();
        edns.options_mut().insert(EdnsOption::Unknown(65_001, b"secret".to_vec()));
        let extra = Name::from_str("secret.example.").unwrap();
        message.add_additional(Record::from_rdata(extra, 1, RData::A(A::new(192, 0, 2, 1))));
        let asking = asking(&message);
        let onward = asking.onward().encoded(4711, true).unwrap();
        assert!(!onward.windows(6).any(|six| six == b"secret"));
        let read = Message::from_vec(&onward).unwrap();
        assert_eq!((read.metadata.id, &read.queries), (4711, &message.queries));
        assert_eq!(read.max_payload(), UDP_MAX);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let asking = asking(&query("pacs.example.", RecordType::A));
        let answer = |id, name: &str, kind| {
            let mut answer = query(name, kind);
            answer.metadata.id = id;
            answer.metadata.message_type = MessageType::Response;
            asking.onward().is_answered_by(5, &answer)
        };
        assert!(answer(5, "PACS.example.", RecordType::A));
        assert!(!answer(6, "pacs.example.", RecordType::A));
        assert!(!answer(5, "other.example.", RecordType::A));
        assert!(!answer(5, "pacs.example.", RecordType::AAAA));
        let same = query("pacs.example.", RecordType::A);
        assert!(!asking.onward().is_answered_by(77, &same), "a query");
    }

    #[test]
    fn extended_errors_are_for_those_who_speak_edns() {
        let plain = query("a.example.", RecordType::A);
        let refused = |message: &Message| {
            asking(message).explained(ResponseCode::Refused, BLOCKED, "rule: refused").to_vec()
        };
        let bytes = refused(&plain).unwrap();
        assert!(!bytes.windows(4).any(|four| four == b"rule"));
        let bytes = refused(&with_edns(plain, 1232)).unwrap();
        let option = [&[0, 15, 0, 15, 0, 15][..], b"rule: refused"].concat();
        assert!(bytes.windows(option.len()).any(|part| part == option), "{bytes:?}");
    }

    #[test]
    fn an_answer_that_does_not_fit_is_cut_and_says_so() {
        let message = query("a.example.", RecordType::TXT);
        let asking = asking(&message);
        let mut long = asking.reply(ResponseCode::NoError);
        for n in 0..100 {
            let name = Name::from_str("a.example.").unwrap();
            long.add_answer(Record::from_rdata(name, 1, RData::A(A::new(192, 0, 2, n))));
        }
        let cut = asking.encoded(&long, true).unwrap();
        assert!(cut.len() <= 512);
        assert!(Message::from_vec(&cut).unwrap().metadata.truncation);
        let whole = Message::from_vec(&asking.encoded(&long, false).unwrap()).unwrap();
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (100, false));
    }

    #[test]
    fn addresses_are_the_name_s_for_no_longer_than_the_alias_that_leads_to_them() {
        let [name, alias] =
            ["a.example.", "cdn.example."].map(|name| Name::from_str(name).unwrap());
        let mut message = query("a.example.", RecordType::A);
        let cname = RData::CNAME(hickory_proto::rr::rdata::CNAME(alias.clone()));
        message.add_answer(Record::from_rdata(name, 7, cname));
        let address = RData::A(A::new(192, 0, 2, 1));
        message.add_answer(Record::from_rdata(alias, 86_400, address));
        let sifted = sift(&mut message, false, |_| true);
        assert_eq!((sifted.left.len(), sifted.ttl), (1, 7));
    }

    #[test]
    fn addresses_that_are_not_to_be_told_are_taken_out_everywhere() {
        let name = Name::from_str("a.example.").unwrap();
        let mut message = query("a.example.", RecordType::HTTPS);
        let parameters = vec![
            (
                SvcParamKey::Mandatory,
                SvcParamValue::Mandatory(Mandatory(vec![
                    SvcParamKey::Alpn,
                    SvcParamKey::EchConfigList,
                ])),
            ),
            (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h3".to_owned()]))),
            (
                SvcParamKey::Ipv4Hint,
                SvcParamValue::Ipv4Hint(IpHint(vec![A::new(192, 0, 2, 1), A::new(192, 0, 2, 9)])),
            ),
            (
                SvcParamKey::EchConfigList,
                SvcParamValue::EchConfigList(EchConfigList(vec![0, 1, 7])),
            ),
            (
                SvcParamKey::Ipv6Hint,
                SvcParamValue::Ipv6Hint(IpHint(vec![AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)])),
            ),
        ];
        let service = SVCB::new(1, Name::root(), parameters);
        message.add_answer(Record::from_rdata(name.clone(), 9, RData::HTTPS(HTTPS(service))));
        for last in [1, 9] {
            let record = RData::A(A::new(192, 0, 2, last));
            message.add_answer(Record::from_rdata(name.clone(), 30, record.clone()));
            message.add_additional(Record::from_rdata(name.clone(), 20, record));
        }
        let bad: IpAddr = "192.0.2.9".parse().unwrap();
        let bad_too: IpAddr = "2001:db8::9".parse().unwrap();
        let sifted = sift(&mut message, true, |address| ![bad, bad_too].contains(&address));
        assert_eq!(sifted.refused, [bad, bad]);
        assert_eq!((sifted.left, sifted.ttl), (vec!["192.0.2.1".parse().unwrap()], 30));
        let read = Message::from_vec(&message.to_vec().unwrap()).unwrap();
        assert_eq!((read.answers.len(), read.additionals.len()), (2, 1));
        let text = read.answers[0].data.to_string();
        assert!(text.contains("192.0.2.1") && text.contains("alpn"), "{text}");
        for gone in ["192.0.2.9", "ech", "ipv6hint"] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        let mut whole = message.clone();
        sift(&mut whole, false, |_| true);
        assert_eq!(whole.to_vec().unwrap(), message.to_vec().unwrap(), "nothing more to take out");
    }
}
