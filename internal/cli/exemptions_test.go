package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

const someExemptions = "rotation of alias/legacy-* until 2999-03-31: the vendor cannot rotate; anything of tag env=sandbox until 2999-01-01: nobody depends on it;" +
	"deletion by role/break-glass until 2020-12-01: a \x1b[31mdrill; policy of alias/none until 2999-01-01: x"

func TestExemptionsList(t *testing.T) {
	a := newAccount(t)
	a.enter()
	command := func(args ...string) (int, string, string) {
		var out, errs strings.Builder
		code := run(t.Context(), append([]string{"exemptions", "list"}, args...), []string{"CMKEEPER_EXEMPTIONS=" + someExemptions}, &out, &errs)
		return code, out.String(), errs.String()
	}
	legacy := a.newKey("alias/legacy-erp")
	sandbox := *must(a.kms.CreateKey(t.Context(), &kms.CreateKeyInput{Tags: []types.Tag{{TagKey: aws.String("env"), TagValue: aws.String("sandbox")}}}))(t).KeyMetadata.Arn

	code, out, errs := command("--json")
	var list exemptionList
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != exitOK || len(list.Exemptions) != 4 || list.Unknown != "" {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, errs)
	}
	byAlias, byTag, byActor := list.Exemptions[0], list.Exemptions[1], list.Exemptions[2]
	if !byAlias.Holds || len(byAlias.Keys) != 1 || byAlias.Keys[0].ARN != legacy || byAlias.Keys[0].By != "alias/legacy-erp" || byAlias.Keys[0].From.IsZero() {
		t.Errorf("by alias: %+v", byAlias)
	}
	if len(byTag.Keys) != 1 || byTag.Keys[0].ARN != sandbox || byTag.Keys[0].By != "tag env=sandbox" {
		t.Errorf("by tag: %+v", byTag)
	}
	if byActor.Holds || byActor.DaysLeft >= 0 || byActor.Covers != "deletion by role/break-glass" || len(byActor.Keys) != 0 {
		t.Errorf("by actor: %+v", byActor)
	}

	code, out, _ = command()
	for _, want := range []string{"rotation of alias/legacy-*\n  until 2999-03-31, ", "  because: the vendor cannot rotate\n", legacy + " (alias/legacy-erp, counts from ", sandbox + " (tag env=sandbox)",
		"EXPIRED on 2020-12-01", `a \x1b[31mdrill`, "covers no key now"} {
		if !strings.Contains(out, want) || code != exitOK {
			t.Errorf("exit code %d, %q is not in:\n%s", code, want, out)
		}
	}

	a.box.AWS.SetIdentityPolicy(administrator, func(action, _ string) bool { return action != "kms:ListResourceTags" })
	if code, out, _ := command(); code != exitOK || !strings.Contains(out, legacy) || !strings.Contains(out, "keys cannot be read, the first of them") {
		t.Errorf("without tags: exit code %d\n%s", code, out)
	}
}

func TestExemptionsWithoutAWS(t *testing.T) {
	environ := []string{"CMKEEPER_EXEMPTIONS=" + someExemptions, "AWS_ENDPOINT_URL=http://127.0.0.1:1", "AWS_REGION=eu-west-1"}
	for name, tt := range map[string]struct {
		environ, args []string
		code          int
		want          string
	}{
		"offline":        {environ, []string{"--offline"}, exitOK, "not all of them: AWS was not asked"},
		"none":           {nil, nil, exitOK, "Nothing is exempt"},
		"cannot be read": {[]string{"CMKEEPER_EXEMPTIONS=rotation of alias/x"}, []string{"--offline"}, exitUsage, `exemption "rotation of alias/x": must read`},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs strings.Builder
			if code := run(t.Context(), append([]string{"exemptions", "list"}, tt.args...), tt.environ, &out, &errs); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if all := out.String() + errs.String(); !strings.Contains(all, tt.want) || strings.Contains(all, "covers arn:") {
				t.Errorf("%q is not in:\n%s", tt.want, all)
			}
		})
	}
}
