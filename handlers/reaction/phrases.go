package reaction

import (
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// Who names the event's actor in a sentence.
func (c *Case) Who() string {
	if name := ledger.ActorName(c.Event); name != "" {
		return name
	}
	return "somebody (the event does not say who)"
}

// Unreported says of a change that was found by comparing what is read with what was known
// that its event is missing: it ends a sentence.
const Unreported = "no event reported the change. Its event should have come, or is still on its way."

// ShortName is how a title names a key: by alias where it has one.
func ShortName(k *alert.Key) string {
	if len(k.Aliases) > 0 {
		return k.Aliases[0]
	}
	return arn.KeyID(k.ARN)
}

// OrUnknown is the text, or "unknown" for none.
func OrUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

// OrNothing lists texts, or says "nothing" where there are none.
func OrNothing(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

// TimeText is a time as alerts show it.
func TimeText(t time.Time) string { return t.UTC().Format(time.DateTime + " MST") }

// KMSCommand is a command on the event's key: an operation, and its options with their
// values.
func (c *Case) KMSCommand(operation command.Format, values ...command.Value) string {
	name, options, more := strings.Cut(string(operation), " ")
	format := "aws kms " + name + " --key-id %s --region %s"
	if more {
		format += " " + options
	}
	return command.Line(command.Format(format), append([]command.Value{command.KeyID(arn.KeyID(c.Event.KeyARN)), c.InRegion()}, values...)...)
}

// InRegion is the Region of a command.
func (e *Env) InRegion() command.Value { return command.Region(e.Config.Region) }

// TrailCommand looks up who did what to the event's key.
func (c *Case) TrailCommand() string {
	return c.LookupCommand("ResourceName", command.Key(c.Event.KeyARN))
}

// LookupCommand looks up in CloudTrail what has a value of an attribute.
func (e *Env) LookupCommand(attribute command.Format, value command.Value) string {
	return command.Line("aws cloudtrail lookup-events --region %s --lookup-attributes %s", e.InRegion(), command.Lookup(attribute, value))
}

// ActorCommand looks up what else the event's actor did.
func (c *Case) ActorCommand() string {
	switch actor := c.Event.Actor; {
	case actor.AccessKeyID != "":
		return c.LookupCommand("AccessKeyId", command.AccessKeyID(actor.AccessKeyID))
	case actor.Session != "":
		return c.LookupCommand("Username", command.Session(actor.Session))
	default:
		return c.LookupCommand("Username", command.User(actor.Name))
	}
}

// PolicyCommand is one of cmkeeper's own commands, to be pasted where its variables
// are not set.
func (e *Env) PolicyCommand(format command.Format, values ...command.Value) string {
	words, file, into := strings.Cut("cmkeeper policy "+string(format), " > ")
	words += " --state-bucket %s"
	if into {
		words += " > " + file
	}
	return command.Line(command.Format(words), append(slices.Clone(values), command.Bucket(e.Config.StateBucket))...)
}

// UndoCommands bring a key back that is disabled or pending deletion; enable: also to
// Enabled.
func (c *Case) UndoCommands(keyState string, enable bool) []string {
	var next []string
	pending := ledger.IsPending(keyState)
	if pending {
		next = append(next, c.KMSCommand("cancel-key-deletion"))
	}
	if enable && (pending || keyState == ledger.StateDisabled) {
		next = append(next, c.KMSCommand("enable-key"))
	}
	return next
}

// ImportAgain is what only the owner of imported key material can do.
func (c *Case) ImportAgain() []string {
	return []string{
		"Import the same key material again from your own copy; AWS has none.",
		c.KMSCommand("get-parameters-for-import --wrapping-algorithm RSAES_OAEP_SHA_256 --wrapping-key-spec RSA_4096"),
	}
}

// ApprovalTag on a key approves its deletion; its value is the day on which somebody
// decided that ("2026-03-01").
const ApprovalTag = "cmkeeper:deletion-approved"

// ReencryptCommands move data by hand, to be pasted where cmkeeper's variables are not
// set. What is not known is a word to be replaced. flags are further ones, such as
// reencrypt.Summary.EnvelopeFlags.
func ReencryptCommands(from []string, to string, scope []reencrypt.Scope, stateBucket string, flags command.Format) []string {
	if len(from) == 0 {
		from = []string{""}
	}
	if len(scope) == 0 {
		scope = []reencrypt.Scope{{}}
	}
	var commands []string
	for _, s := range scope {
		format := command.Format("cmkeeper reencrypt run --bucket %s")
		values := []command.Value{command.Bucket(s.Bucket).Or("BUCKET")}
		if s.Prefix != "" {
			format += " --prefix %s"
			values = append(values, command.Prefix(s.Prefix))
		}
		for _, key := range from {
			format += " --from %s"
			values = append(values, command.Key(key).Or("OLD-KEY-ARN"))
		}
		format += " --to %s"
		values = append(values, command.Key(to))
		if stateBucket != "" {
			format += " --state-bucket %s"
			values = append(values, command.Bucket(stateBucket))
		}
		commands = append(commands, command.Line(format+flags, values...))
	}
	return commands
}

// ReplaceKey says how a key is replaced that KMS cannot rotate by itself. The second text is
// a command, if the key has an alias.
func ReplaceKey(k *alert.Key) []string {
	const exempt = "Or agree with the key's owner to keep it, and exempt the key (CMKEEPER_EXEMPTIONS)."
	if len(k.Aliases) == 0 {
		return []string{"The key has no alias that could be moved to another key. Have what uses it use a new key.", exempt}
	}
	return []string{"See what it takes to replace the key; this changes nothing:", command.Line("cmkeeper rotate %s --dry-run", command.Alias(k.Aliases[0])), exempt}
}
