//! TLS by rustls with ring, whatever crypto provider the rest of the program has chosen. Certificates are read once, when
//! a storage is opened, so that a wrong file is an error there.

#[cfg(feature = "tls")]
pub(super) use with::Tls;
#[cfg(not(feature = "tls"))]
pub(super) use without::Tls;

#[cfg(feature = "tls")]
mod with {
    use std::fmt;
    use std::io;
    use std::sync::Arc;

    use ferroq_core::storage::StorageError;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;

    use super::super::dial::Socket;
    use crate::error::invalid;
    use crate::options::{Pem, TlsOptions};

    /// What makes TLS of a TCP socket.
    pub(in super::super) struct Tls(TlsConnector);

    impl Tls {
        pub(in super::super) fn new(options: &TlsOptions) -> Result<Self, StorageError> {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| invalid(format!("TLS can't be set up: {error}")))?
                .with_root_certificates(roots(options.ca.as_ref())?);
            let config = match &options.client {
                None => config.with_no_client_auth(),
                Some((certificate, key)) => {
                    let wrong = |what: &str, why: &dyn fmt::Display| {
                        invalid(format!("the client's {what} for Redis by TLS can't be used: {why}"))
                    };
                    let chain = CertificateDer::pem_slice_iter(&read("client certificate", certificate)?)
                        .collect::<Result<Vec<_>, _>>()
                        .map_err(|error| wrong("certificate", &error))?;
                    let key = PrivateKeyDer::from_pem_slice(&read("client key", key)?)
                        .map_err(|error| wrong("key", &error))?;
                    config.with_client_auth_cert(chain, key).map_err(|error| wrong("certificate or key", &error))?
                }
            };
            Ok(Tls(TlsConnector::from(Arc::new(config))))
        }

        pub(in super::super) async fn wrap(&self, host: &str, stream: TcpStream) -> io::Result<Box<dyn Socket>> {
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            Ok(Box::new(self.0.connect(name, stream).await?))
        }
    }

    fn roots(own: Option<&Pem>) -> Result<RootCertStore, StorageError> {
        let mut roots = RootCertStore::empty();
        match own {
            Some(pem) => {
                let wrong = |why: &dyn fmt::Display| invalid(format!("the CA for Redis by TLS can't be used: {why}"));
                for certificate in CertificateDer::pem_slice_iter(&read("CA", pem)?) {
                    roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
                }
            }
            None => {
                // One unreadable certificate among the system's hundred should not matter.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(invalid("no trusted certificate was found for Redis by TLS; give a PEM file with ca="));
        }
        Ok(roots)
    }

    fn read(what: &str, pem: &Pem) -> Result<Vec<u8>, StorageError> {
        match pem {
            Pem::Text(text) => Ok(text.clone()),
            Pem::File(path) => std::fs::read(path)
                .map_err(|error| invalid(format!("the {what} in {} can't be read: {error}", path.display()))),
        }
    }

    impl fmt::Debug for Tls {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Tls")
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use std::convert::Infallible;
    use std::io;

    use ferroq_core::storage::StorageError;
    use tokio::net::TcpStream;

    use super::super::dial::Socket;
    use crate::error::unsupported;
    use crate::options::TlsOptions;

    /// TLS is not built in, so there is none of these.
    #[derive(Debug)]
    pub(in super::super) struct Tls(Infallible);

    impl Tls {
        pub(in super::super) fn new(_options: &TlsOptions) -> Result<Self, StorageError> {
            Err(unsupported("this program was built without TLS for Redis; enable ferroq's `redis-tls` feature"))
        }

        pub(in super::super) async fn wrap(&self, _host: &str, _stream: TcpStream) -> io::Result<Box<dyn Socket>> {
            match self.0 {}
        }
    }
}
