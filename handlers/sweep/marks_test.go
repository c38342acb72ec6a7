package sweep

import (
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/judgement"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// A configuration that judges otherwise has another mark, whatever it differs in; the same
// one, made again, has the same.
func TestConfigMark(t *testing.T) {
	parsed := func(change func(*reaction.Config)) string {
		exemptions, err := judgement.ParseExemptions("rotation of alias/x until 2099-01-31: a test", []string{"rotation"})
		if err != nil {
			t.Fatal(err)
		}
		hours, err := judgement.ParseHours("Mon-Fri 08:00-18:00 Europe/Berlin")
		if err != nil {
			t.Fatal(err)
		}
		c := reaction.Config{Policy: reaction.Observe, Exemptions: exemptions, ReencryptScope: map[string][]reencrypt.Scope{"alias/a": nil, "alias/b": nil}}
		c.Rules.Hours = hours
		change(&c)
		return configMark(c)
	}
	same := parsed(func(*reaction.Config) {})
	for range 10 {
		if parsed(func(c *reaction.Config) { c.Concurrency, c.SweepShare, c.SweepShard = 7, 0.5, 3 }) != same {
			t.Fatal("the same configuration has another mark")
		}
	}
	selector, err := judgement.ParseSelector("alias/sensitive")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{same: "none"}
	for name, change := range map[string]func(*reaction.Config){
		"mode":            func(c *reaction.Config) { c.Policy = reaction.Enforce },
		"build":           func(c *reaction.Config) { c.Build = "v2" },
		"trusted account": func(c *reaction.Config) { c.Posture.TrustedAccounts = []string{"1"} },
		"no exemption":    func(c *reaction.Config) { c.Exemptions = nil },
		"its end":         func(c *reaction.Config) { c.Exemptions[0].Last = c.Exemptions[0].Last.Add(24 * time.Hour) },
		"its selector":    func(c *reaction.Config) { c.Exemptions[0].Of = &selector },
		"a rule":          func(c *reaction.Config) { c.Rules.Sensitive = []judgement.Selector{selector} },
		"hours":           func(c *reaction.Config) { c.Rules.Hours = judgement.Hours{} },
		"reminders":       func(c *reaction.Config) { c.DeletionReminders = []time.Duration{time.Hour} },
		"a scope":         func(c *reaction.Config) { c.ReencryptScope["alias/c"] = nil },
	} {
		m := parsed(change)
		if other, ok := seen[m]; ok {
			t.Errorf("%s has the mark of %s", name, other)
		}
		seen[m] = name
	}
}
