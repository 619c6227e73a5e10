# The production client's own settings: a preview replaces its paths and never changes this file.
export GFAL_CONFIG_DIR=/etc/gfal2.d
export PATH=/opt/production/bin:$PATH
echo "welcome to a noisy profile"
