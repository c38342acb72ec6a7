package judgement

import "testing"

func TestMatches(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"alias/x", "alias/x", true},
		{"alias/x", "alias/xy", false},
		{"alias/app-*", "alias/app-orders/eu", true},
		{"alias/app-*", "alias/web", false},
		{"*", "alias/anything", true},
		{"alias/*-prod", "alias/a-prod", true},
		{"alias/*-prod", "alias/a-prod-2", false},
		{"alias/*/eu/*", "alias/a/eu/b", true},
		{"alias/*a*a", "alias/a", false},
		{"", "alias/x", false},
	}
	for _, tt := range tests {
		if got := Matches(tt.pattern, tt.name); got != tt.want {
			t.Errorf("Matches(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}
