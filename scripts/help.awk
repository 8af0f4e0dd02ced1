# `make help`: the targets of the Makefile that have a "##", under the headings that have a "##@".
BEGIN {
    FS = ":.*## "
    print "make TARGET [SETTING=value ...]"
}
/^##@ / { printf "\n%s\n", substr($0, 5) }
/^[a-z%-]+:.*## / {
    sub(/%/, "NAME", $1)
    printf "  %-16s %s\n", $1, $2
}
END {
    print "\nSettings and variables"
    print "  MAX_ITERS=50     Any symbol of the menu, for this command only; targets that"
    print "                   write .config write it there"
    print "  RESULTS=DIR      The experiment to verify, report, plot or inspect, instead of"
    print "                   the one that .config names"
    print "  V=1              Show commands"
    print "  PYTHON=/path     Use this Python as it is, and install nothing"
    print "  KCONFIG_SEED=1   For randconfig"
}
