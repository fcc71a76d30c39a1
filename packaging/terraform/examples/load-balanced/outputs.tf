output "address" {
  description = "Where the chat page is, once perch has its configuration."
  value       = module.perch.address
}

output "ready_command" {
  description = "Asks whether it is ready, and says why not."
  value       = module.perch.ready_command
}

output "configuration" {
  description = "A configuration to begin with for each kind of host: `terraform output -json configuration | jq -r .bot >perch.toml`."
  value       = module.perch.configuration
}

output "upload_command" {
  description = "Puts a configuration where each kind of host reads it. The hosts take it within ten seconds."
  value       = module.perch.upload_command
}

output "secret_command" {
  description = "Asks for a token, without an echo, and puts it into the secret, past Terraform and the shell's history."
  value       = module.perch.secret_command
}

output "session_command" {
  description = "Opens a shell on the host with the Discord session (`session_manager`)."
  value       = module.perch.session_command
}

output "on_host" {
  description = "A function for the shell: `eval \"$(terraform output -raw on_host)\"`, then `on_host 'sudo perch status'`."
  value       = module.perch.on_host
}

output "log_command" {
  description = "Follows the journal: the shipped one (`ship_journal`), else by Session Manager."
  value       = module.perch.log_command
}
