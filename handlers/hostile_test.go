package handlers_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/awscli"
	"github.com/cmkeeper/cmkeeper/internal/command"
)

// TestHostileRecords forges every labelled record: each text in it ends with something
// that a shell acts on where it is not quoted, or quoted once too often. What the alerts
// have people paste is words in the shell, and none of them is that text.
func TestHostileRecords(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no shell on this machine")
	}
	corpus := readLabelled(t)
	t.Chdir(t.TempDir())
	pasted, reasons := map[string]bool{}, 0
	for _, l := range corpus {
		c := playConfig(reaction.Observe, play{})
		c.FailedUse, c.WatchedTags, c.Posture.TrustedAccounts = true, []string{"class"}, []string{"111122223333"}
		inWorld(t, c, func(w *world) {
			key := givens[l.Given](w)
			w.events()
			w.told.take()
			for i, evil := range []string{`'; touch pwned; '`, `\'; touch pwned; \'`, "`touch pwned`", ",x\u009b\u202e$(touch pwned)"} {
				var record map[string]any
				known := strings.NewReplacer("KEYID", key[strings.LastIndexByte(key, '/')+1:], "NOW", time.Now().UTC().Format(time.RFC3339))
				if err := json.Unmarshal([]byte(known.Replace(string(l.Event))), &record); err != nil {
					t.Fatal(err)
				}
				record["eventID"], record["requestID"] = fmt.Sprintf("e7e17000-1111-4000-8000-%012d", i), fmt.Sprint(i)
				for _, member := range []string{"requestParameters", "responseElements", "userIdentity", "sourceIPAddress", "userAgent", "errorMessage", "detail"} {
					record[member] = poison(record[member], evil)
				}
				if err := w.handle(string(must(json.Marshal(record)))); err != nil {
					t.Errorf("%s: %v", l.Name, err)
				}
				for _, a := range w.told.take() {
					for _, n := range a.Next {
						if strings.HasPrefix(n, "There is no command for ") {
							reasons++
						}
						if command.Is(n) {
							pasted[n] = true
						}
					}
				}
			}
		})
	}
	if len(pasted) < 20 || reasons < 20 {
		t.Errorf("%d commands and %d reasons for none: the records are not poisoned as they should be", len(pasted), reasons)
	}
	for line := range pasted {
		if !command.Safe(line) || strings.Contains(line, "pwned") {
			t.Errorf("the command is not safe to paste: %s", line)
			continue
		}
		want := must(awscli.Words(line))
		if i := slices.Index(want, ">"); i >= 0 {
			want = want[:i]
			line, _, _ = strings.Cut(line, " > ")
		}
		out := must(exec.Command(sh, "-c", "set -f; printf '%s\\0' "+line).Output())
		if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, want) {
			t.Errorf("the shell sees %q in %s", got, line)
		}
	}
	if files := must(exec.Command("ls").Output()); len(files) > 0 {
		t.Errorf("pasting made files: %s", files)
	}
}

// poison appends a text to every text of a record but those that say which key, account
// or bucket it is about: another one's would not be judged.
func poison(v any, evil string) any {
	switch v := v.(type) {
	case string:
		if strings.Contains(v, ":kms:") || v == account || uuid.MatchString(v) || v == "orders-data" {
			return v
		}
		return v + evil
	case []any:
		for i := range v {
			v[i] = poison(v[i], evil)
		}
	case map[string]any:
		for name := range v {
			v[name] = poison(v[name], evil)
		}
	}
	return v
}
