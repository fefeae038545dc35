//! Certificates for servers that speak TLS, made for one test by an authority that exists in it only.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::options::TlsFiles;

/// An authority, and what it signed, in files: `ca.pem`; `server.pem` and `server.key` for `127.0.0.1`; `client.pem` and
/// `client.key`; and `stranger.pem` and `stranger.key` for a host that is not this one.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// A new authority with all of them.
    ///
    /// # Panics
    /// If they can't be made or written.
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a directory for the certificates");
        let write = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).expect("a file for a certificate");
        };
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A certificate whose subject is its issuer would look as if it had signed itself.
        params.distinguished_name.push(DnType::CommonName, "the test's authority");
        let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        write("ca.pem", authority.pem());
        for (name, host) in [("server", "127.0.0.1"), ("client", "client"), ("stranger", "elsewhere.example")] {
            let key = key();
            let params = CertificateParams::new(vec![host.to_owned()]).expect("a good name");
            write(&format!("{name}.pem"), params.signed_by(&key, &authority).expect("a certificate").pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Certificates { directory }
    }

    /// One of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// For a server that shows the certificate `name`, and may want to see the client's.
    pub fn files(&self, name: &str, wants_client: bool) -> TlsFiles {
        TlsFiles {
            ca: self.file("ca.pem"),
            cert: self.file(&format!("{name}.pem")),
            key: self.file(&format!("{name}.key")),
            client: wants_client.then(|| (self.file("client.pem"), self.file("client.key"))),
        }
    }

    /// The URL parameters of a client that trusts the authority and shows its certificate.
    pub fn parameters(&self) -> String {
        let file = |name: &str| self.file(name).display().to_string();
        format!("ca={}&cert={}&key={}", file("ca.pem"), file("client.pem"), file("client.key"))
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Certificates::new()
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
