//! Other ways to write a country, so that a list that uses them is answered with the code to write.

/// ISO 3166-1 alpha-3 codes in order, the alpha-2 code behind each.
const ALPHA_3: &str = "\
    ABWAW AFGAF AGOAO AIAAI ALAAX ALBAL ANDAD AREAE ARGAR ARMAM ASMAS ATAAQ ATFTF ATGAG AUSAU \
    AUTAT AZEAZ BDIBI BELBE BENBJ BESBQ BFABF BGDBD BGRBG BHRBH BHSBS BIHBA BLMBL BLRBY BLZBZ \
    BMUBM BOLBO BRABR BRBBB BRNBN BTNBT BVTBV BWABW CAFCF CANCA CCKCC CHECH CHLCL CHNCN CIVCI \
    CMRCM CODCD COGCG COKCK COLCO COMKM CPVCV CRICR CUBCU CUWCW CXRCX CYMKY CYPCY CZECZ DEUDE \
    DJIDJ DMADM DNKDK DOMDO DZADZ ECUEC EGYEG ERIER ESHEH ESPES ESTEE ETHET FINFI FJIFJ FLKFK \
    FRAFR FROFO FSMFM GABGA GBRGB GEOGE GGYGG GHAGH GIBGI GINGN GLPGP GMBGM GNBGW GNQGQ GRCGR \
    GRDGD GRLGL GTMGT GUFGF GUMGU GUYGY HKGHK HMDHM HNDHN HRVHR HTIHT HUNHU IDNID IMNIM INDIN \
    IOTIO IRLIE IRNIR IRQIQ ISLIS ISRIL ITAIT JAMJM JEYJE JORJO JPNJP KAZKZ KENKE KGZKG KHMKH \
    KIRKI KNAKN KORKR KWTKW LAOLA LBNLB LBRLR LBYLY LCALC LIELI LKALK LSOLS LTULT LUXLU LVALV \
    MACMO MAFMF MARMA MCOMC MDAMD MDGMG MDVMV MEXMX MHLMH MKDMK MLIML MLTMT MMRMM MNEME MNGMN \
    MNPMP MOZMZ MRTMR MSRMS MTQMQ MUSMU MWIMW MYSMY MYTYT NAMNA NCLNC NERNE NFKNF NGANG NICNI \
    NIUNU NLDNL NORNO NPLNP NRUNR NZLNZ OMNOM PAKPK PANPA PCNPN PERPE PHLPH PLWPW PNGPG POLPL \
    PRIPR PRKKP PRTPT PRYPY PSEPS PYFPF QATQA REURE ROURO RUSRU RWARW SAUSA SDNSD SENSN SGPSG \
    SGSGS SHNSH SJMSJ SLBSB SLESL SLVSV SMRSM SOMSO SPMPM SRBRS SSDSS STPST SURSR SVKSK SVNSI \
    SWESE SWZSZ SXMSX SYCSC SYRSY TCATC TCDTD TGOTG THATH TJKTJ TKLTK TKMTM TLSTL TONTO TTOTT \
    TUNTN TURTR TUVTV TWNTW TZATZ UGAUG UKRUA UMIUM URYUY USAUS UZBUZ VATVA VCTVC VENVE VGBVG \
    VIRVI VNMVN VUTVU WLFWF WSMWS YEMYE ZAFZA ZMBZM ZWEZW";

/// English names that people write, in lower case.
const NAMES: [(&str, &str); 22] = [
    ("america", "US"),
    ("austria", "AT"),
    ("belgium", "BE"),
    ("britain", "GB"),
    ("china", "CN"),
    ("denmark", "DK"),
    ("england", "GB"),
    ("finland", "FI"),
    ("france", "FR"),
    ("germany", "DE"),
    ("greece", "GR"),
    ("ireland", "IE"),
    ("italy", "IT"),
    ("japan", "JP"),
    ("netherlands", "NL"),
    ("norway", "NO"),
    ("poland", "PL"),
    ("russia", "RU"),
    ("spain", "ES"),
    ("sweden", "SE"),
    ("switzerland", "CH"),
    ("united states", "US"),
];

/// The alpha-2 code that is meant by an alpha-3 code or an English name, in either case.
pub(super) fn meant(text: &str) -> Option<&'static str> {
    let upper = text.to_ascii_uppercase();
    let alpha_3 = |pair: &'static str| pair.split_at_checked(3).filter(|&(long, _)| long == upper);
    let lower = text.to_ascii_lowercase();
    let named = || NAMES.iter().find(|&&(name, _)| name == lower).map(|&(_, code)| code);
    ALPHA_3.split(' ').find_map(alpha_3).map(|(_, code)| code).or_else(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Country;

    #[test]
    fn every_code_that_is_suggested_is_one() {
        assert_eq!(ALPHA_3.split(' ').count(), 249);
        let short = ALPHA_3.split(' ').map(|pair| pair.split_at(3).1);
        for code in short.chain(NAMES.map(|(_, code)| code)) {
            assert!(Country::from_code(code).is_some(), "{code}");
        }
        assert_eq!(meant("deu"), Some("DE"));
        assert_eq!(meant("USA"), Some("US"));
        assert_eq!(meant("United States"), Some("US"));
        assert_eq!(meant(""), None);
        assert_eq!(meant("DEUD"), None);
    }
}
