# What a site's production clients are set up with; previews inherit it.
export X509_CERT_DIR=@BASE@/grid-security/certificates
export X509_VOMS_DIR=@BASE@/grid-security/vomsdir
export VO_DTEAM_SW_DIR=@BASE@/exp_soft/dteam
export VO_DTEAM_DEFAULT_SE=se01.example.org
export MYPROXY_SERVER=myproxy.example.org
export LCG_GFAL_INFOSYS=bdii.example.org:2170
