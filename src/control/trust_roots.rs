//! Who may vouch for a server that this host asks over TLS: a name server, a source of tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::config::Names;

/// Why nobody can vouch.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file of the policy.
    #[error("{}: no certificate can be read", .0.display())]
    File(PathBuf),
    /// None of the host's stores.
    #[error(
        "this host has no CA certificates; install some, or name a file ([names] resolver_ca, [data.update] ca)"
    )]
    NoStore,
    /// The cryptography of this build.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// A TLS client that believes what the certificates of `file` vouch for, else those of the host.
///
/// # Errors
/// Where no certificate can be read: a client that believes nobody would only look like one.
pub fn client(file: Option<&Path>) -> Result<Arc<ClientConfig>, Fault> {
    let roots = match file {
        Some(file) => store(file).ok_or_else(|| Fault::File(file.to_owned()))?,
        None => host_store().ok_or(Fault::NoStore)?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Fault::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The TLS client for those resolvers that are asked over TLS; `None` where none is.
///
/// # Errors
/// As [`client`].
pub fn of_resolvers(names: &Names) -> Result<Option<Arc<ClientConfig>>, Fault> {
    let any = names.resolvers.iter().any(|resolver| resolver.tls.is_some());
    any.then(|| client(names.resolver_ca.as_deref())).transpose()
}

/// The certificates that the host itself believes, where its distribution keeps them.
fn host_store() -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    (!roots.is_empty()).then_some(roots)
}

/// The certificates of a PEM file; `None` where there is none that can be used.
fn store(file: &Path) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).ok()?;
    // A store may hold one that is not understood; the others hold all the same.
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    (!roots.is_empty()).then_some(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_vouches_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        assert!(matches!(client(Some(&file)), Err(Fault::File(_))), "no such file");
        std::fs::write(&file, "no certificate").unwrap();
        assert!(matches!(client(Some(&file)), Err(Fault::File(_))));
        let own = rcgen::generate_simple_self_signed(vec!["dns.example".to_owned()]).unwrap();
        std::fs::write(&file, own.cert.pem()).unwrap();
        assert!(client(Some(&file)).is_ok());
    }
}
