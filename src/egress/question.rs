//! Writes one question to a name server (RFC 1035 §4.1.2), and tells what answers it. Pure.

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};

/// Bytes of an answer over UDP that no path cuts into fragments (DNS flag day 2020).
pub(crate) const UDP_MAX: u16 = 1232;

/// What is asked, and with which bits.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) query: Query,
    pub(crate) recursion: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) authentic: bool,
    /// Whether DNSSEC records are wanted.
    pub(crate) dnssec: bool,
}

impl Question {
    /// A question that the gateway asks for itself.
    pub(crate) const fn own(query: Query) -> Self {
        Self { query, recursion: true, checking_disabled: false, authentic: false, dnssec: false }
    }

    /// The message that asks it, with EDNS or without (RFC 6891 §6.2.2).
    pub(crate) fn encoded(&self, id: u16, edns: bool) -> Result<Vec<u8>, ProtoError> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.recursion;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.authentic_data = self.authentic;
        message.add_query(self.query.clone());
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX);
            edns.set_dnssec_ok(self.dnssec);
            message.set_edns(edns);
        }
        message.to_vec()
    }

    /// Whether a message answers [`Question::encoded`] of this id.
    pub(crate) fn is_answered_by(&self, id: u16, message: &Message) -> bool {
        let [query] = message.queries.as_slice() else { return false };
        message.metadata.id == id
            && message.metadata.message_type == MessageType::Response
            && query.query_type() == self.query.query_type()
            && query.query_class() == self.query.query_class()
            && query.name() == self.query.name()
    }

    /// Whether a message says that its sender does not know EDNS; an old one repeats no question.
    pub(crate) fn is_too_new_for(&self, id: u16, message: &Message) -> bool {
        let code = message.metadata.response_code;
        message.metadata.id == id
            && message.metadata.message_type == MessageType::Response
            && matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)
            && (message.queries.is_empty() || self.is_answered_by(id, message))
    }
}
