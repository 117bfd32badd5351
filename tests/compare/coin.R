# Reference values for tests/compare/test_coin.py: Rscript coin.R VALUES.csv, with columns case, seed, a, b, c.
# Methods a and b are the pair; the mean over seeds is what rank and permutation tests see.
suppressPackageStartupMessages(library(coin))
values <- read.csv(commandArgs(trailingOnly = TRUE)[1])
values$case <- factor(values$case)
values$seed <- factor(values$seed)
means <- aggregate(cbind(a, b, c) ~ case, data = values, FUN = mean)
say <- function(name, value) cat(sprintf("%s=%.10g\n", name, value))

signed <- function(data, distribution) {
  pvalue(wilcoxsign_test(a ~ b, data = data, zero.method = "Pratt", distribution = distribution))
}
say("wilcoxon_exact", signed(means, "exact"))
# Whole hundredths, so that there are ties and zeros.
hundredths <- data.frame(a = round(100 * means$a), b = round(100 * means$b))
say("wilcoxon_with_ties", signed(hundredths, "asymptotic"))

pair <- data.frame(
  value = c(means$a, means$b),
  method = factor(rep(c("a", "b"), each = nrow(means))),
  case = factor(rep(means$case, 2))
)
set.seed(1)
flips <- symmetry_test(value ~ method | case, data = pair, distribution = approximate(nresample = 100000))
say("permutation", pvalue(flips))

all <- data.frame(
  value = c(means$a, means$b, means$c),
  method = factor(rep(c("a", "b", "c"), each = nrow(means))),
  case = factor(rep(means$case, 3))
)
say("friedman", pvalue(friedman_test(value ~ method | case, data = all)))

holm <- p.adjust(c(0.01, 0.04, 0.03), method = "holm")
for (place in seq_along(holm)) say(paste0("holm_", place), holm[place])

# Mean squares of the crossed design: cases and seeds with one value each.
values$d <- values$a - values$b
squares <- summary(aov(d ~ case + seed, data = values))[[1]][, "Mean Sq"]
say("ms_case", squares[1])
say("ms_seed", squares[2])
