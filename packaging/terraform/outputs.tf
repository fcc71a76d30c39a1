locals {
  # A shell on a host that Session Manager opens; in a group the host is looked up when the command runs.
  target         = local.balanced ? "$(${local.first_of_group}bot${local.instance_id})" : one(aws_instance.host[*].id)
  first_of_group = "aws autoscaling describe-auto-scaling-groups --region ${var.region} --auto-scaling-group-names ${var.name}-"
  instance_id    = " --query 'AutoScalingGroups[0].Instances[0].InstanceId' --output text"
  session        = "aws ssm start-session --region ${var.region} --target ${local.target}"
  host           = local.balanced ? one(aws_lb.web[*].dns_name) : one(aws_eip.host[*].public_ip)
}

output "address" {
  description = "Where the chat page is, once perch has its configuration."
  value       = local.certificate ? "https://${var.domain.name}" : "http://${var.domain == null ? local.host : var.domain.name}"
}

output "ready_command" {
  description = "Asks whether it is ready, and says why not."
  value       = "curl -s ${local.certificate ? "https://${var.domain.name}" : "http://${local.host}"}/ready"
}

output "bucket" {
  description = "The bucket with the configuration objects."
  value       = aws_s3_bucket.configuration.id
}

output "configuration_uri" {
  description = "What each kind of host reads, as perch is told it (`PERCH_CONFIG`)."
  value       = { for kind in local.kinds : kind => "s3://${aws_s3_bucket.configuration.id}/${local.keys[kind]}" }
}

output "configuration" {
  description = "A configuration to begin with for each kind of host: `terraform output -json configuration | jq -r .bot >perch.toml`."
  value = merge(
    {
      bot = join("\n", concat(
        [
          "environment = \"${var.environment}\"",
          "",
          "[discord]",
          "token = { secret = \"${aws_secretsmanager_secret.perch["bot"].name}\", key = \"DISCORD_BOT_TOKEN\" }",
        ],
        local.balanced ? [] : ["", "[http]", "listen = \"0.0.0.0:80\""],
        [""],
      ))
    },
    local.balanced ? {
      web = join("\n", [
        "environment = \"${var.environment}\"",
        "",
        "[http]",
        "listen = \"0.0.0.0:80\"",
        "# The load balancer's subnets: it says who asked, and whether by HTTPS. Nothing else reaches this port.",
        "trusted_proxies = [${join(", ", [for range in local.proxies : "\"${range}\""])}]",
        "",
      ])
    } : {},
  )
}

output "upload_command" {
  description = "Puts a configuration where each kind of host reads it. The hosts take it within ten seconds."
  value       = { for kind in local.kinds : kind => "aws s3 cp ${local.keys[kind]} s3://${aws_s3_bucket.configuration.id}/${local.keys[kind]} --region ${var.region}" }
}

output "secret_command" {
  description = "Asks for a token, without an echo, and puts it into the secret, past Terraform and the shell's history."
  value = join(" ", [
    "read -rsp 'Token: ' TOKEN && printf '{\"DISCORD_BOT_TOKEN\":\"%s\"}' \"$TOKEN\" |",
    "aws secretsmanager put-secret-value --region ${var.region} --secret-id ${aws_secretsmanager_secret.perch["bot"].name} --secret-string file:///dev/stdin; unset TOKEN",
  ])
}

output "session_command" {
  description = "Opens a shell on the host with the Discord session (`session_manager`)."
  value       = local.session
}

output "on_host" {
  description = "A function for the shell, by Session Manager: `eval \"$(terraform output -raw on_host)\"`, then `on_host 'sudo perch status'`. With a load balancer it is for the host with the Discord session, and `on_host 'sudo perch status' web` for the first of the others."
  value = join("\n", [
    "on_host() {",
    "  set -- \"$1\" \"${local.balanced ? "$(${local.first_of_group}$${2:-bot}${local.instance_id})" : one(aws_instance.host[*].id)}\"",
    "  aws ssm start-session --region ${var.region} --target \"$2\" --document-name AWS-StartInteractiveCommand --parameters command=\"$1\"",
    "}",
    "",
  ])
}

output "log_command" {
  description = "Follows the journal: the shipped one (`ship_journal`), else by Session Manager."
  value = var.ship_journal ? "aws logs tail ${local.log_group} --region ${var.region} --follow" : join(" ", [
    local.session,
    "--document-name AWS-StartInteractiveCommand --parameters command='sudo journalctl -u perch -f'",
  ])
}

output "role_arns" {
  description = "The role of each kind of host, for a key's or another bucket's policy."
  value       = { for kind in local.kinds : kind => aws_iam_role.host[kind].arn }
}

output "security_group_ids" {
  description = "The hosts' security groups, for rules of your own."
  value       = { for kind in local.kinds : kind => aws_security_group.host[kind].id }
}
