//! The providers that are known by a key: who is behind it, and what its files are called.

/// Provider key, the name of its operator in `operators.csv`, and the words that stand for it in
/// file names.
pub(super) const PROVIDERS: [(&str, &str, &[&str]); 27] = [
    ("alibaba", "Alibaba Cloud (US/international)", &["alibaba", "aliyun"]),
    ("aws", "Amazon / AWS", &["aws", "amazon"]),
    ("aws-short", "Amazon / AWS", &[]),
    ("azure", "Microsoft / Azure", &["azure", "microsoft", "servicetags"]),
    ("backblaze", "Backblaze", &["backblaze"]),
    ("cloudflare", "Cloudflare", &["cloudflare"]),
    ("digitalocean", "DigitalOcean", &["digitalocean"]),
    ("exoscale", "Exoscale (Akenes)", &["exoscale"]),
    ("fastly", "Fastly", &["fastly"]),
    ("flexible-engine", "Orange", &[]),
    ("gcp", "Google / Google Cloud", &["gcp", "google", "goog"]),
    ("hetzner", "Hetzner", &["hetzner"]),
    ("huawei", "Huawei International (Huawei Cloud)", &["huawei"]),
    ("ibm", "IBM / IBM Cloud (SoftLayer)", &["ibm", "softlayer"]),
    ("infomaniak", "Infomaniak", &["infomaniak"]),
    ("ionos", "IONOS / STRATO (United Internet)", &["ionos"]),
    ("linode", "Linode (Akamai)", &["linode"]),
    ("oci", "Oracle / OCI", &["oci", "oracle"]),
    ("otc", "T-Systems / Open Telekom Cloud", &["otc"]),
    ("outscale", "3DS Outscale (Dassault Systemes)", &["outscale"]),
    ("ovh", "OVHcloud", &["ovh", "ovhcloud"]),
    ("scaleway", "Scaleway (Iliad)", &["scaleway"]),
    ("tencent", "Tencent Cloud (international)", &["tencent"]),
    ("upcloud", "UpCloud", &["upcloud"]),
    ("vultr", "Vultr (The Constant Company)", &["vultr"]),
    ("wasabi", "Wasabi", &["wasabi"]),
    ("yandex", "Yandex Cloud", &["yandex"]),
];

/// The name in `operators.csv` of the operator that a provider key stands for; `None` where the
/// key is not known or the operator has no AS number of its own there.
#[must_use]
pub fn provider_operator(provider: &str) -> Option<&'static str> {
    PROVIDERS.iter().find(|known| known.0 == provider).map(|known| known.1)
}

/// The provider that a file name names with a whole word.
pub(super) fn provider_of_words(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|word| PROVIDERS.iter().find(|known| known.2.contains(&word)).map(|k| k.0))
}
