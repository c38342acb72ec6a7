package keypolicy

import "strings"

// matches reports whether the pattern, with * and ?, matches all of s, without
// regard to case. A wildcard in s is matched by * only, so that a pattern
// matches another pattern only if it matches everything that the other does.
func matches(pattern, s string) bool { return like(pattern, s, true) }

// Match reports whether a pattern with the wildcards * and ? matches all of s, as Resource
// elements and StringLike do.
func Match(pattern, s string) bool { return like(pattern, s, false) }

// like is matches, without regard to case only with fold.
func like(pattern, s string, fold bool) bool {
	// The usual two-pointer walk: on a mismatch the last star takes one more byte.
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == s[i] || pattern[p] == '?' || fold && lower(pattern[p]) == lower(s[i])) && s[i] != '*':
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func anyMatches(patterns []string, s string) bool {
	for _, p := range patterns {
		if matches(p, s) {
			return true
		}
	}
	return false
}
